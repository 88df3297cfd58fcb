#!/bin/sh
# Every figure and check that needs a GPU, in ten minutes at most, on a machine that has torch and no network.
#   tests/gpu/run.sh WHEELS RESULTS [MODEL]
# MODEL is H/14; L/16 and B/16 are for further calls. WHEELS is what wheels.sh collected, or a folder that does not exist. Whatever is finished stays in RESULTS.
set -u
wheels=${1:?usage: tests/gpu/run.sh WHEELS RESULTS [MODEL]}
results=${2:?usage: tests/gpu/run.sh WHEELS RESULTS [MODEL]}
model=${3:-H/14}
python=${PYTHON:-python3}
mkdir -p "$results"
if [ -d "$wheels" ]; then
    for wheel in deepspeed hjson py-cpuinfo einops tqdm ninja psutil packaging annotated-types typing-inspection \
        msgpack pydantic_core pydantic pytest pytest-timeout iniconfig pluggy pygments timm; do
        $python -c "import importlib.metadata as m; m.version('$wheel')" 2>/dev/null ||
            $python -m pip install --quiet --no-index --no-deps --find-links "$wheels" "$wheel" || true
    done
fi
timeout 300 $python tests/bench/step.py --models "$model" --seconds 240 --out "$results/step.json" >"$results/step.log" 2>&1
timeout 140 $python tests/bench/step.py --options --models "$model" --rounds 5 --seconds 110 \
    --out "$results/step-options.json" >"$results/step-options.log" 2>&1
timeout 30 $python tests/bench/curves.py --out "$results/curves.json" >"$results/curves.log" 2>&1
timeout 110 $python -m pytest tests/gpu -q -p no:cacheprovider >"$results/tests.log" 2>&1
tail -n 12 "$results"/*.log
