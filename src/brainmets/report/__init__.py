"""What a reader sees: JSON, CSV, HTML, pictures."""
