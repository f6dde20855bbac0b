"""What a run writes down: records, the store of result files, the leaderboard built from them."""
