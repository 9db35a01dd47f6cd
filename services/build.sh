#!/bin/sh
# Compiles the sample services to build/services/*.wasm (or to the folder given). Only what is stale is compiled.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/build/services}
cc=${WASM_CC:-clang-19}
mkdir -p "$out"
# Compiled and linked apart: linking with -O makes clang run wasm-opt where binaryen is installed.
compile() { "$cc" --target=wasm32-wasi -O2 -msimd128 -g -Wall -Wextra -Werror -I "$root/sdk/c" -c "$1" -o "$2"; }
newer() { [ ! -e "$1" ] || [ -n "$(find "$2" "$root/sdk/c" "$root/services/build.sh" -newer "$1" -print -quit)" ]; }
if newer "$out/godwit.o" "$root/sdk/c/godwit.c"; then compile "$root/sdk/c/godwit.c" "$out/godwit.o"; fi
for source in "$root"/services/*.c; do
  name=$(basename "$source" .c)
  if newer "$out/$name.wasm" "$source"; then
    compile "$source" "$out/$name.o"
    case $name in
      *-command) "$cc" --target=wasm32-wasi -g "$out/$name.o" -o "$out/$name.wasm.new" ;;
      *) "$cc" --target=wasm32-wasi -g -mexec-model=reactor -Wl,-z,stack-size=262144 "$out/$name.o" "$out/godwit.o" -o "$out/$name.wasm.new" ;;
    esac
    mv "$out/$name.wasm.new" "$out/$name.wasm"
    echo "services: $out/$name.wasm"
  fi
done
