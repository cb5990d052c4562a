"""The pipeline that makes MultiMood's checkpoints: data, features, projectors, compressor, SFT, evaluation."""
