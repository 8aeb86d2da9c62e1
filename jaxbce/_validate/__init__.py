"""What runs in Python once per call: arguments are converted, checked and explained here."""
