#!/usr/bin/env bash
# Makes the working tree small enough to be sent to a machine with a GPU: weights and results that check.sh does not read are left
# out of it, and put back afterwards. Nothing but files that are in HEAD, byte for byte, is ever removed.
#   tests/gpu/pack.sh out                leave them out; until they are back, git takes them as unchanged
#   tests/gpu/pack.sh back               put them back; a file that is there is never overwritten
#   tests/gpu/pack.sh run COMMAND ...    out, the command, back, however it ends
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
left=(leaderboards sbv2bench/mini/weights)
kept='^sbv2bench/mini/weights/((sd21|sd-turbo|taesd|clip|clip-train|extractor)/|manifest\.json$)'

names() { git ls-files -z -- "${left[@]}" | { grep -zvE "$kept" || true; }; }
# Of those, the ones that git has been told to take as unchanged, whether they are there or not: its flag is S.
absent() { git ls-files -z -v -- "${left[@]}" | sed -zn 's/^S //p' | { grep -zvE "$kept" || true; }; }

clean() {
    local found
    found=$(git status --porcelain)
    if [ -n "$found" ]; then
        printf 'error: %s\n%s\n' "$1" "$found" >&2
        return 4
    fi
}

out() {
    clean 'the working tree has changes, expected none: what is removed must be in HEAD'
    names | git update-index -z --skip-worktree --stdin
    names | xargs -0r rm -f --
    find "${left[@]}" -type d -empty -delete 2>/dev/null || true
    echo "left out $(names | tr -cd '\0' | wc -c) files; the rest: $(git ls-files -z | xargs -0 du -cb 2>/dev/null | tail -1 | cut -f1) bytes" >&2
    echo "to put them back: tests/gpu/pack.sh back" >&2
}

back() {
    local list
    list=$(mktemp)
    absent >"$list"
    git update-index -z --no-skip-worktree --stdin <"$list"
    git checkout-index -z --stdin -q <"$list" || true # one that is there stays as it is; what differs is said below
    rm -f "$list"
    clean 'these files are not as they are in HEAD'
}

case ${1:-} in
    out) out ;;
    back) back ;;
    run)
        shift
        trap back EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
        out
        "$@"
        ;;
    *)
        echo "error: found '${1:-}', expected out, back or run" >&2
        echo "fix: tests/gpu/pack.sh out" >&2
        exit 2
        ;;
esac
