"""The trainer of SwiftBrush v2, and of the mini family from nothing but seeds."""
