#!/usr/bin/env bash
# What only a GPU can show: steps of SFT (QLoRA, LoRA), GRPO and PPO of the 7B shape with random weights and the full-length
# multimodal prompt, memory and utilisation, mamba-ssm's kernels against the loop, then longer runs of the mini checkpoints.
#
#   train/gpu_check.sh [--config train/configs/gpu_check_h100.yaml] [--key=value ...]      PYTHON=python3 takes another Python
#
# One call ends within `minutes`; calling it again goes on where it stopped. Needs no network. Figures: OUT/report.md, .json.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
case " $* " in *" --config"*) set -- "$@" ;; *) set -- --config train/configs/gpu_check_h100.yaml "$@" ;; esac
exec "$python" -m train.gpu_check "$@"
