"""Models that already see: they embed the views and captions which students learn from."""
