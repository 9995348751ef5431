"""What people look at: pages, figures, Prefect's artifacts."""
