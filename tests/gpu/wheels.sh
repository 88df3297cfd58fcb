#!/bin/sh
# Wheels that a bare GPU machine (torch, nothing else of ours, no network) needs for tests/gpu and tests/bench/step.py.
#   tests/gpu/wheels.sh FOLDER
set -eu
folder=${1:?usage: tests/gpu/wheels.sh FOLDER}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$folder"
pin() { grep -iE "^$1==" requirements.lock requirements-dev.lock -h | head -n 1; }
DS_BUILD_OPS=0 $python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$folder" "$(pin deepspeed)"
for name in hjson py-cpuinfo einops tqdm ninja psutil packaging annotated-types typing-inspection \
    pytest pytest-timeout iniconfig pluggy pygments timm; do
    $python -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$(pin "$name" | grep . || echo "$name")"
done
for version in 3.10 3.11 3.12 3.13; do # whichever the machine has
    $python -m pip download --quiet --no-deps --only-binary :all: --python-version $version --dest "$folder" \
        "$(pin msgpack)" "$(pin pydantic_core | grep . || pin pydantic-core)" "$(pin pydantic)"
done
du -sh "$folder"
