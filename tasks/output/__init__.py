"""What a run leaves in its folder: manifests, its record, the tuned model's description."""
