#!/bin/sh
# The sample clients of compose.demo.yaml: clients.sh URL [ROUNDS]. Without ROUNDS it never ends. Every PAUSE seconds it sends
# allowed requests, and now and then denied ones. The tokens are those of the demo, which are public.
set -eu
url=$1
rounds=${2:-0}
pause=${PAUSE:-1}

# ask METHOD PATH [TOKEN [BODY]]: sends a request and ignores the response.
ask() {
    set -- "$1" "$2" "${3:-}" "${4:-}"
    curl --silent --output /dev/null --max-time 10 --request "$1" "$url$2" \
        ${3:+--header "Authorization: Bearer $3"} \
        ${4:+--header 'Content-Type: application/json' --data "$4"} || true
}

user='1|u8jzPde0IgxLd6GncfBAepfJBd0Kh8oOOL8dKLzd69838e04'
reader='2|ocJ2isAjIhKtJ0RlgLKOmxgJTeKdNnFRIBXuDL7D3b8b4480'
scanner='3|xtpYlSXpfKtHF4vUCsMehGAkWvj7FAc9QeWJKY40f98feacd'
writer='4|uvSwMFLZDe1f8rESQedUStPKR0CsTy4Qwb8DwkNh3a3b3850'

round=0
while [ "$rounds" -eq 0 ] || [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    ask GET /up
    ask GET /api/v2/items "$reader"
    ask GET /api/v2/items/1 "$reader"
    ask GET /api/v2/rentals "$scanner"
    ask POST /api/v2/kiosk/scan "$scanner" '{"code":"DRILL-01"}'
    ask PATCH /api/v2/items/1 "$writer" '{"name":"Drill"}'
    ask GET /api/v2/instance "$user"
    # An unknown token, a token without the ability, and a path that the map lacks.
    [ $((round % 5)) -ne 0 ] || ask GET /api/v2/items '9|nobody'
    [ $((round % 7)) -ne 0 ] || ask DELETE /api/v2/items/1 "$scanner"
    [ $((round % 11)) -ne 0 ] || ask GET /api/v2/internals "$reader"
    sleep "$pause"
done
