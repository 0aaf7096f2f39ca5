"""The Gaussian wing against closed forms."""
