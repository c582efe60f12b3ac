#!/usr/bin/env bash
# The exchanges of tokens between nodes that have real links: every node is a network namespace with
# a hostname of its own, joined to the others by veth pairs and a bridge, and every veth is shaped
# by tbf both ways. OpenMPI finds these nodes by itself: shared memory inside, TCP between.
# All namespaces belong to one PID namespace and hold no name, so whatever ends the script ends them.
#   tests/dist/namespaces.sh BUILD [nodes] [ranks a node]     a campaign by hand, as root; default 2 4
# RATES="1000 100" gives the links in Mbit/s, ROWS=FILE keeps what was measured.
set -uo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath "$1") nodes=${2:-2} ranks=${3:-4}
read -ra rates <<<"${RATES:-1000 100}"
small="1024 8192 65536" large="524288 4194304" # bytes a rank
small_repeats=51 large_repeats=9

# What the kernel and this user allow, tried in namespaces that are gone at once.
why_not() {
  local tool
  [ "$(id -u)" -eq 0 ] || { echo "network namespaces need root"; return; }
  for tool in ip tc unshare nsenter setpriv mpirun python3; do
    command -v $tool >/dev/null || { echo "there is no program $tool"; return; }
  done
  unshare --net --uts --mount --pid --fork --mount-proc sh -c 'ip link add try0 type bridge &&
    ip link add try1 type veth peer name try2 && ip link set try1 master try0 &&
    tc qdisc add dev try2 root tbf rate 10mbit burst 16kb limit 1mb' >/dev/null 2>&1 ||
    echo "the kernel refuses namespaces, veth, bridge or tbf"
}

# The part outside: everything else happens in namespaces that die with it.
if [ -z "${PYRAMOE_SWITCH:-}" ]; then
  reason=$(why_not)
  if [ -n "$reason" ]; then
    echo "skipped: $reason"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
  fi
  if [ "$nodes" -lt 2 ] || [ "$ranks" -lt 2 ]; then
    echo "expected at least 2 nodes of 2 ranks, came $nodes of $ranks"
    exit 2
  fi
  work=$(mktemp -d) inside=
  trap 'kill -KILL "$inside" 2>/dev/null; wait "$inside" 2>/dev/null; rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  PYRAMOE_SWITCH=$work setpriv --pdeathsig KILL unshare --net --uts --mount --pid --fork \
    --kill-child --mount-proc bash "$here/namespaces.sh" "$build" "$nodes" "$ranks" &
  inside=$!
  wait "$inside"
  exit
fi

work=$PYRAMOE_SWITCH
rows=${ROWS:-$work/rows.jsonl}

# in_node I COMMAND...
in_node() {
  local pid=${holder[$1]}
  shift
  nsenter --target "$pid" --net "$@"
}

# A process that does nothing but hold node I's namespaces; then its veth to the bridge.
holder=()
add_node() {
  local i=$1
  unshare --net --uts sh -c "hostname node$i && touch $work/node$i.up && exec sleep infinity" &
  holder[i]=$!
  echo "${holder[i]}" >"$work/node$i"
  while [ ! -e "$work/node$i.up" ]; do sleep 0.02; done
  echo "10.77.0.$((i + 1)) node$i" >>"$work/hosts"
  ip link add "port$i" type veth peer name eth0 netns "${holder[i]}" &&
    ip link set "port$i" master switch up && in_node "$i" ip link set lo up &&
    in_node "$i" ip address add "10.77.0.$((i + 1))/24" dev eth0 && in_node "$i" ip link set eth0 up
}

build_network() {
  mount -t tmpfs tmpfs "$work" && mount -t tmpfs tmpfs /dev/shm || return 1  # leave no file behind
  hostname switch
  printf '127.0.0.1 localhost\n10.77.0.254 switch\n' >"$work/hosts"
  ip link set lo up && ip link add switch type bridge && ip link set switch up &&
    ip address add 10.77.0.254/24 dev switch || return 1
  local i
  for ((i = 0; i < nodes; ++i)); do add_node $i || return 1; done
  mount --bind "$work/hosts" /etc/hosts
  # What mpirun calls instead of ssh: HOST COMMAND...
  cat >"$work/agent" <<AGENT
#!/bin/sh
pid=\$(cat "$work/\$1") && shift && exec nsenter --target "\$pid" --net --uts sh -c "\$*"
AGENT
  chmod +x "$work/agent"
}

# Bytes that may leave at once: a quarter of a millisecond's, but ten frames.
burst_of() { echo $(($1 * 31 > 16384 ? $1 * 31 : 16384)); }

# shape MBIT: every veth, both ways; 0 = without limit. The queue is long enough to drop nothing: a
# lost packet would cost its flow 200 ms.
shape() {
  local i what
  for ((i = 0; i < nodes; ++i)); do
    tc qdisc del dev "port$i" root 2>/dev/null
    in_node $i tc qdisc del dev eth0 root 2>/dev/null
    [ "$1" -gt 0 ] || continue
    what="root tbf rate $1mbit burst $(burst_of "$1") limit 64mb"
    # shellcheck disable=SC2086
    tc qdisc add dev "port$i" $what && in_node $i tc qdisc add dev eth0 $what || return 1
  done
}

# hosts NODES SLOTS
hosts() {
  local i
  for ((i = 0; i < $1; ++i)); do echo "node$i slots=$2"; done
}

# bench NODES RANKS OPTIONS...: rows of JSON
bench() {
  local nodes=$1 ranks=$2
  shift 2
  hosts "$nodes" "$ranks" >"$work/hostfile"
  PYRAMOE_THREADS=1 timeout -s KILL 300 mpirun --allow-run-as-root --bind-to none --map-by slot \
    --oversubscribe --hostfile "$work/hostfile" -np $((nodes * ranks)) \
    --mca orte_tmpdir_base "$work" --mca plm rsh --mca plm_rsh_agent "$work/agent" \
    --mca oob_tcp_if_include 10.77.0.0/24 --mca pml ob1 --mca btl self,vader,tcp \
    --mca btl_tcp_if_include 10.77.0.0/24 \
    "$build/pyramoe" bench a2a --real-links --json "$@" 2>"$work/log" ||
    { tail -n 12 "$work/log" >&2; return 1; }
}

# Bytes that have left all nodes.
on_the_wire() {
  local i
  for ((i = 0; i < nodes; ++i)); do in_node $i cat /proc/net/dev; done |
    awk '$1 == "eth0:" { sum += $10 } END { printf "%.0f\n", sum }'
}

# ping NODES RANKS BYTES: microseconds of one message between two ranks, both ways at once. The least
# of three runs' medians: whoever else uses the cores can only add to it.
ping() {
  for _ in 1 2 3; do
    bench "$1" "$2" --tensor 1 --exchange flat --bytes "$3" --repeats 101 || return 1
  done >"$work/ping"
  python3 -c 'import json, sys; print(min(round(json.loads(row)["measured_us"], 2) for row in sys.stdin))' \
    <"$work/ping"
}

# measure MBIT MODEL EXCHANGE TENSOR REPEATS BYTES...
measure() {
  local mbit=$1 model=$2 exchange=$3 tensor=$4 repeats=$5 before after out
  shift 5
  before=$(on_the_wire)
  out=$(bench "$nodes" "$ranks" --exchange "$exchange" --tensor "$tensor" --link-model "$model" \
    --repeats "$repeats" --bytes "$@") || out=""
  after=$(on_the_wire)
  cat >>"$rows" <<ROW
{"mbit": $mbit, "exchange": "$exchange", "tensor": $tensor, "repeats": $repeats, "sizes": $#, "wire": $((after - before))}
$out
ROW
}

# All exchanges over links of one speed, inside as INSIDE says: alpha and beta.
measure_all() {
  local mbit=$1 inside=$2 between share=0 model tensor
  shape "$mbit" || return 1
  between=$(ping 2 1 16) || return 1
  # A node's ranks share its link.
  [ "$mbit" -eq 0 ] || share=$(awk -v m="$mbit" -v r="$ranks" 'BEGIN { printf "%.7f", m / 8000 / r }')
  model="$inside,$between,$share"
  echo "{\"mbit\": $mbit, \"model\": \"$model\", \"burst\": $(burst_of "$mbit")}" >>"$rows"
  local ways=("flat 1" "hierarchical 1") way
  for tensor in 2 4; do
    [ $((ranks % tensor)) -ne 0 ] || ways+=("coordinated $tensor")
  done
  for way in "${ways[@]}"; do
    # shellcheck disable=SC2086
    measure "$mbit" "$model" $way $small_repeats $small
    # shellcheck disable=SC2086
    measure "$mbit" "$model" $way $large_repeats $large
  done
}

# Alpha (us) and beta (GB/s) of shared memory, from a small message and a large one.
inside_links() {
  local alpha large
  alpha=$(ping 1 2 16) && large=$(ping 1 2 4194304) || return 1
  awk -v a="$alpha" -v t="$large" 'BEGIN { printf "%.2f,%.3f\n", a, 2097.152 / (t - a) }'
}

give_up() {
  echo "FAILED $1"
  echo "0 passed, 1 failed, 0 skipped"
  exit 1
}
build_network || give_up "the network could not be built"
: >"$rows" || give_up "$rows cannot be written"
inside=$(inside_links) || give_up "two ranks on one node do not run"
for mbit in 0 "${rates[@]}"; do
  measure_all "$mbit" "$inside" || give_up "two ranks on two nodes do not run at $mbit Mbit/s"
done
exec python3 "$here/namespaces.py" "$rows" "$nodes" "$ranks"
