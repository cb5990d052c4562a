"""MultiMood's model, media and inference: what the app and the training share."""
