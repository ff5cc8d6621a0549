#!/bin/sh
# The sample clients of compose.demo.yaml: clients.sh URL [ROUNDS], for ever without ROUNDS. Every PAUSE seconds requests that
# are allowed, and now and then some that are not. The tokens are the demo's, which everybody knows.
set -eu
url=$1
rounds=${2:-0}
pause=${PAUSE:-1}

# ask METHOD PATH [TOKEN [BODY]]: what is answered does not matter here.
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
    # A token that is not good, one that may not, and a path that the map does not have.
    [ $((round % 5)) -ne 0 ] || ask GET /api/v2/items '9|nobody'
    [ $((round % 7)) -ne 0 ] || ask DELETE /api/v2/items/1 "$scanner"
    [ $((round % 11)) -ne 0 ] || ask GET /api/v2/internals "$reader"
    sleep "$pause"
done
