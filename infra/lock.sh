#!/usr/bin/env bash
# Writes requirements.lock and requirements-dev.lock: what a fresh environment gets for pyproject.toml, exactly.
# torch's own CUDA packages are left out: they come with the torch build that the index serves.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
torch=${TORCH:-2.13.0}
torchvision=${TORCHVISION:-0.28.0} # the release for that torch; timm, a test oracle, wants one
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
pip() { "$scratch/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
frozen() { pip freeze --all --exclude-editable --exclude tessera | sed -E 's/\+(cpu|cu[0-9]+)$//' | grep -viE '^(nvidia-|triton|cuda-)'; }

pip install --quiet --upgrade pip setuptools wheel
pip install --quiet "torch==$torch" numpy
DS_BUILD_OPS=0 DS_ACCELERATOR=cpu pip install --quiet --no-build-isolation .
{
  echo "# Written by \`make lock\`; what \`make run\` installs. Do not edit."
  frozen
} > requirements.lock
pip install --quiet "torchvision==$torchvision" --no-build-isolation '.[dev]'
{
  echo "# Written by \`make lock\`; what \`make test\` installs on top of requirements.lock. Do not edit."
  frozen | grep -vxFf requirements.lock
} > requirements-dev.lock
