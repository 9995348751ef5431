"""What MLflow is told, kept beside the run until MLflow holds it."""
