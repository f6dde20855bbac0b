"""From a plan to a result: plan -> generate -> measure -> score."""
