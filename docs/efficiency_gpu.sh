#!/usr/bin/env bash
# The whole GPU programme of docs/efficiency.md, piece by piece.
#
#   bash docs/efficiency_gpu.sh [PIECE] [OPTION=VALUE ...]     all pieces, or the one of that number, from 1
#
# A piece ends by itself after at most nine minutes. What it finished is in outputs/efficiency/decode.csv and is
# skipped when the same command runs again; the exit code is 1 as long as something is left to do. Further
# options go to every piece and win over its own. PYTHON names the interpreter.
set -u
unset CUDA_LAUNCH_BLOCKING # would make launching part of every kernel's time

PIECES=(
  # Each of the paper's models, from 2K to 32K: FullKV (dynamic, static, compiled) and four methods at 256.
  "shapes=[llava_next_vicuna_7b] lengths=[2048,4096,8192] backend=triton"
  "shapes=[llava_next_vicuna_7b] lengths=[16384,32768] backend=triton"
  "shapes=[llava_next_mistral_7b] lengths=[2048,4096,8192] backend=triton"
  "shapes=[llava_next_mistral_7b] lengths=[16384,32768] backend=triton"
  "shapes=[qwen2_vl_7b] lengths=[2048,4096,8192] backend=triton"
  "shapes=[qwen2_vl_7b] lengths=[16384,32768] backend=triton"
  # Budgets at 32K; not compiled, since a graph for each would take longer than a piece may.
  "shapes=[llava_next_vicuna_7b] lengths=[32768] methods=[snapkv,sparsemm] budgets=[64,128,512,1024,2048] compile=false backend=triton"
  "shapes=[qwen2_vl_7b] lengths=[32768] methods=[snapkv,sparsemm] budgets=[64,128,512,1024,2048] compile=false backend=triton"
  # Batches at 8K; what does not fit is a row that says so.
  "shapes=[llava_next_vicuna_7b] lengths=[8192] batch_sizes=[4,16] methods=[snapkv,sparsemm] rounds=2 backend=triton"
  "shapes=[llava_next_mistral_7b] lengths=[8192] batch_sizes=[4,16] methods=[snapkv,sparsemm] rounds=2 backend=triton"
  "shapes=[qwen2_vl_7b] lengths=[8192] batch_sizes=[4,16] methods=[snapkv,sparsemm] rounds=2 backend=triton"
  # The default backend beside the Triton kernel above; not compiled, since every layer's groups are other shapes.
  "shapes=[llava_next_vicuna_7b,qwen2_vl_7b] lengths=[8192,32768] methods=[snapkv,sparsemm] backend=grouped compile=false"
  # The embedded model.
  "shapes=[checkpoint] lengths=[256,2048,4096] budgets=[64] backend=triton"
)

first=0
last=$((${#PIECES[@]} - 1))
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  if (($1 < 1 || $1 > ${#PIECES[@]})); then
    echo "PIECE must be from 1 to ${#PIECES[@]}, got $1" >&2
    exit 2
  fi
  first=$(($1 - 1))
  last=$first
  shift
fi

left=0
for ((piece = first; piece <= last; piece++)); do
  echo "piece $((piece + 1)) of ${#PIECES[@]}: ${PIECES[piece]}" >&2
  # shellcheck disable=SC2086  (a piece is several words)
  timeout --signal=INT --kill-after=20 540 "${PYTHON:-python}" -m sparsemm.efficiency decode ${PIECES[piece]} "$@"
  code=$?
  ((code == 2)) && exit 2 # wrong options: no piece can run
  ((code == 0)) || { left=1 && echo "piece $((piece + 1)) is not done: run it again" >&2; }
done
exit $left
