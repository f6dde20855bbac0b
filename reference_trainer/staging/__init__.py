"""The next ladder while it grows: recipes, log and final weights, outside the wheel; one change swaps it in and empties this."""
