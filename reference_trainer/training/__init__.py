"""The one core of training, under students and base models alike.

In: what is trained (`checkpoint.Trained`), one step after another. Out: checkpoints to resume from, log.jsonl, a progress bar,
trackers; one process or many that share a batch; an end by signals and by time. A newcomer may add a tracker in `monitor`.
"""
