#!/usr/bin/env bash
# Prove on a PC that the wheel installs on 64-bit ARM, and that it restores an image there as it
# does here: the aarch64 wheels of all dependencies, run by QEMU's user-mode emulation.
#
#   make wheel && export/raspberry-pi/check_aarch64.sh build/wheel/mirnet_edge-*.whl
#
# With LITERT=FOLDER, a bundle of `mirnet export --format litert --size 128x96 --int8`, its LiteRT
# models restore the image too, on both sides; PYTHON needs the extra `litert` for that.
#
# Needs root, Debian or Ubuntu, and: apt install qemu-user-static mmdebstrap. About 5 minutes and
# 1 GB. Speed under emulation says nothing about a board.
set -euo pipefail
wheel=$(realpath "${1:?the wheel: build/wheel/mirnet_edge-*.whl}")
python=${PYTHON:-$PWD/.venv/bin/python}  # has the package installed, for the expected result
work=${WORK:-build/aarch64}
litert=${LITERT:+$(realpath "$LITERT")}
if [ -n "$litert" ] && [ ! -f "$litert/litert-fp32.tflite" ]; then
  echo "LITERT=$LITERT holds no litert-fp32.tflite; see the head of this script" >&2
  exit 2
fi
extras=cpu,video${litert:+,litert}
mkdir -p "$work"
work=$(realpath "$work")

if [ ! -x "$work/root/usr/bin/python3.11" ]; then
  mmdebstrap --quiet --arch=arm64 --variant=extract \
    --include=python3,libgl1,libglib2.0-0,libgomp1 bookworm "$work/root"
fi
# ONNX Runtime reads these to tell the cores; without them it crashes under emulation
mkdir -p "$work/root/proc" "$work/root/sys/devices/system/cpu"
for core in 0 1; do
  printf 'processor\t: %d\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n' "$core"
done > "$work/root/proc/cpuinfo"
echo 0-1 | tee "$work/root/sys/devices/system/cpu/possible" > "$work/root/sys/devices/system/cpu/present"

# the versions that the project is tested with; OpenVINO's wheels need glibc 2.35
platforms=()
for glibc in 2_35 2_28 2_27 2_17; do
  platforms+=(--platform "manylinux_${glibc}_aarch64")
done
rm -rf "$work/site"
"$python" -m pip install --quiet --disable-pip-version-check --target "$work/site" \
  "${platforms[@]}" --python-version 3.11 --only-binary=:all: --constraint constraints.txt \
  "$wheel[$extras]"

arm() {
  qemu-aarch64-static -cpu cortex-a76 -L "$work/root" -E PYTHONPATH="$work/site" \
    -E HOME="$work" "$work/root/usr/bin/python3.11" "$@"
}
cd "$work"
"$python" - <<'END'
import numpy as np
from PIL import Image

rows, columns = np.mgrid[0:96, 0:128]
waves = np.stack([np.sin(columns / 9 + one) * np.cos(rows / 7 + one) for one in range(3)], -1)
noise = np.random.default_rng(0).normal(0.0, 3.0, waves.shape)
Image.fromarray(np.clip(36 + 24 * waves + noise, 0, 255).astype(np.uint8)).save("dark.png")
END
failed=0

# Restore the image here and there with the options given, and compare; the first argument is the
# name of the results.
check() {
  local name=$1 machine run
  shift
  for machine in here aarch64; do
    run=arm
    [ "$machine" = here ] && run="$python"
    $run -m mirnet_edge restore dark.png --threads 2 --out "$machine-$name.png" --overwrite "$@"
  done
  "$python" - "here-$name.png" "aarch64-$name.png" <<'END' || failed=1
import sys

import numpy as np
from PIL import Image

here, there = (np.asarray(Image.open(name)).astype(int) for name in sys.argv[1:])
furthest = int(abs(here - there).max())
print(f"{sys.argv[2]}: at most {furthest} of 255 levels from the result of this machine")
sys.exit(furthest > 1)
END
}

for precision in fp32 int8; do
  check "$precision" --task low-light --backend onnxruntime --precision "$precision"
  if [ -n "$litert" ] && [ -f "$litert/litert-$precision.tflite" ]; then
    check "litert-$precision" --bundle "$litert" --backend litert --precision "$precision"
  fi
done
[ -n "$litert" ] || echo "LiteRT was not checked: give LITERT=FOLDER, see the head of this script"
exit "$failed"
