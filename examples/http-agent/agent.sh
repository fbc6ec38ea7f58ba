#!/usr/bin/env bash
# An agent that needs bash and curl and nothing else. It asks for tasks by HTTP, so it works behind any firewall.
#
#   OPSCORE_URL=http://127.0.0.1:8000 OPSCORE_API_KEY=… examples/http-agent/agent.sh
#
# It serves tasks of one capability, one at a time, until SIGINT or SIGTERM; a task in hand is finished first. Replace work().
#
# Environment: OPSCORE_URL (http://127.0.0.1:8000), OPSCORE_API_KEY (none), AGENT_ID (curl-agent; letters, digits, _ and - only),
# AGENT_CAPABILITY (count-bytes), AGENT_WAIT (seconds that one request waits for a task, 30).
set -euo pipefail

OPSCORE_URL=${OPSCORE_URL:-http://127.0.0.1:8000}
AGENT_ID=${AGENT_ID:-curl-agent}
AGENT_CAPABILITY=${AGENT_CAPABILITY:-count-bytes}
AGENT_WAIT=${AGENT_WAIT:-30}
agent=$OPSCORE_URL/api/v1/agents/$AGENT_ID

# work reads a task as JSON from standard input and writes its output, JSON too. A status other than 0 fails the attempt; what it writes to
# standard error is then the message.
work() {
	local bytes
	bytes=$(wc -c)
	printf '{"bytes":%d}' "$bytes"
}

# request becomes curl, sends a request and prints the body of the answer, a newline and the status; 000 without an answer. The key is read from a file
# descriptor: the arguments of a process can be seen by others.
request() {
	exec curl --silent --header 'Content-Type: application/json' --config <(printf 'header = "Authorization: Bearer %s"\n' "${OPSCORE_API_KEY:-}") \
		--write-out '\n%{http_code}' "$@"
}

# call sends a request and waits for the answer.
call() {
	(request "$@") || :
}

# say sends a report until it was taken or refused: repeating is always safe. A body comes from standard input, so it may be of any size.
say() {
	local method=$1 url=$2 body=$3 answer
	while :; do
		answer=$(printf '%s' "$body" | call --request "$method" --data-binary @- --max-time 30 "$url")
		case ${answer##*$'\n'} in
		2??) return 0 ;;
		4??)
			echo "agent.sh: refused: ${answer%$'\n'*}" >&2
			return 1
			;;
		esac
		sleep 1
	done
}

# member prints the first member of that name, as it is in JSON. runId, taskId and attempt stand before input, where users' members begin, and
# quotes within strings are escaped, so the first one is the right one. The token stands behind it and is left out: then the attempt's number decides.
member() {
	grep -oE "\"$1\":(\"([^\"\\\\]|\\\\.)*\"|[0-9]+)" <<<"$task" | head -n 1 | cut -d: -f2-
}

# do_task does the task in $task and reports how it ended.
do_task() {
	local ref output status=0
	ref="\"runId\":$(member runId),\"taskId\":$(member taskId),\"attempt\":$(member attempt)"
	say POST "$agent/progress" "{$ref,\"message\":\"at work\"}" || return 0 # taken back meanwhile
	output=$(work <<<"$task" 2>"$errors") || status=$?
	if [ "$status" -eq 0 ]; then
		say POST "$agent/result" "{$ref,\"status\":\"completed\",\"output\":$output}" || :
	else
		local message
		message=$(tail -n 1 "$errors" | tr -d '\000-\037' | cut -c 1-1000 | sed 's/\\/\\\\/g; s/"/\\"/g')
		say POST "$agent/result" "{$ref,\"status\":\"failed\",\"error\":{\"code\":\"exit_$status\",\"message\":\"$message\"}}" || :
	fi
	echo "agent.sh: $ref: status $status" >&2
}

errors=$(mktemp)
stopping=
poll=
trap 'rm -f "$errors"' EXIT
trap 'stopping=1; [ -z "$poll" ] || kill "$poll" 2>/dev/null || :' INT TERM

say PUT "$agent" "{\"agentName\":\"curl agent\",\"version\":\"1.0\",\"capabilities\":[\"$AGENT_CAPABILITY\"],\"delivery\":\"poll\"}"
echo "agent.sh: $AGENT_ID serves $AGENT_CAPABILITY" >&2
answers=$(mktemp)
trap 'rm -f "$errors" "$answers"' EXIT
while [ -z "$stopping" ]; do
	# In the background, because a shell handles a signal only when the command in front has ended. To ask for a task is a sign of life too.
	request --max-time $((AGENT_WAIT + 10)) "$agent/tasks?wait=$AGENT_WAIT" >"$answers" &
	poll=$!
	[ -z "$stopping" ] || kill "$poll" 2>/dev/null || : # the signal came before the number was known
	wait "$poll" || :
	poll=
	answer=$(cat "$answers")
	case ${answer##*$'\n'} in
	200) task=${answer%$'\n'*} && do_task ;;
	204) ;; # nothing to do: ask again
	4??)
		echo "agent.sh: refused: ${answer%$'\n'*}" >&2
		exit 1
		;;
	*) [ -n "$stopping" ] || sleep 1 ;; # not there, or busy
	esac
done
say POST "$agent/state" '{"state":"offline"}'
