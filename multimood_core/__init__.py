"""MultiMood's model, media and inference: what the app and the training share."""

import logging

# It advises at every start to install a kernel that is fetched from a hub; 4-bit weights work on a CPU without it.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
