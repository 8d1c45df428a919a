#!/bin/sh
# Builds the core with the address and undefined-behaviour sanitizers and runs the kernel tests.
set -eu
cd "$(dirname "$0")/.."

site=build/sanitize/site
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
log=build/check-native.log
mkdir -p build

printf 'Compiling the core with sanitizers …\n' >&2
rm -rf "$site"
PATH="$PWD/.venv/bin:$PATH" \
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation --config-settings=build-dir=build/sanitize/native \
    --config-settings=cmake.define.YEARLING_SANITIZE=ON --target "$site" . >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    exit 1
}

# Python itself is not built with sanitizers, so their library is loaded first; libstdc++ with it,
# because exceptions are intercepted at start. -S keeps the editable install out of the way.
# Leaks are Python's own and not looked for; what is too large to allocate fails as it does without.
preload="$(${CXX:-g++} -print-file-name=libasan.so) $(${CXX:-g++} -print-file-name=libstdc++.so.6)"
LD_PRELOAD="$preload" PYTHONPATH="$site:$packages" PYTHONMALLOC=malloc \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
    UBSAN_OPTIONS=print_stacktrace=1 \
    exec .venv/bin/python -S -m pytest -q -o pythonpath=. -p no:cacheprovider tests/kernels
