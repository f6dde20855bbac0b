"""The mini family: a captioned world made from seeds, and tiny trained networks that draw and judge it."""
