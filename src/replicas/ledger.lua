-- The ledger of shared limits: see src/limits/share.rs.
--
-- KEYS[1]: a hash with the time of each replica's last exchange, and `since`, when the hash was made.
-- KEYS[2…]: for each reported limit, a hash of what each replica holds: `time held want`.
-- ARGV: the replica (empty for a trial that changes nothing), the least number of replicas, SUSPECT_AFTER, LEASE and
-- GONE_AFTER in ms, TOTAL, FLOORS and MAX_REPLICAS; then for each limit the share in force, the share that is asked for, and
-- the wanted one.
-- Returns the number of replicas, and for each limit the granted share, the part that the reporting replicas divide, and
-- what the others want. Anything that this script does not write is removed.
local own, least = ARGV[1], tonumber(ARGV[2])
local suspect, lease, gone = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local TOTAL, FLOORS, MOST = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function fields(key)
    local length = redis.pcall('HLEN', key)
    if type(length) ~= 'number' or length > MOST + 1 then
        redis.call('DEL', key)
        return {}
    end
    return redis.call('HGETALL', key)
end

-- A time in the future is none of ours: the clock of Redis was set back.
local function age(at)
    at = tonumber(at)
    if at and at <= now then return now - at end
    return math.huge
end

local all = fields(KEYS[1])
if own == '' then
    redis.call('HSET', KEYS[1], '', now)
    redis.call('PEXPIRE', KEYS[1], 60000)
    redis.call('HDEL', KEYS[1], '')
    return {1}
end

local live, known, since = {}, 1, nil
for i = 1, #all, 2 do
    local name, old = all[i], age(all[i + 1])
    if name == 'since' then
        if old < math.huge then since = old end
    elseif name ~= own then
        if old < gone then
            live[name] = old < suspect
            known = known + 1
        else
            redis.call('HDEL', KEYS[1], name)
        end
    end
end
if not since then
    since = 0
    redis.call('HSET', KEYS[1], 'since', now)
end
redis.call('HSET', KEYS[1], own, now)
redis.call('PEXPIRE', KEYS[1], 60000)

local replicas = known
-- A new ledger does not know the replicas that have not come back to it.
if since < gone then replicas = math.max(known, math.min(least, MOST)) end
local fair, floor = math.floor(TOTAL / replicas), math.floor(FLOORS / replicas)

local answer = {replicas}
for k = 2, #KEYS do
    local held, asked, want = tonumber(ARGV[3 * k + 3]), tonumber(ARGV[3 * k + 4]), ARGV[3 * k + 5]
    local reserved, others, wants, reporting = (replicas - known) * fair, 0, {}, {}
    all = fields(KEYS[k])
    for i = 1, #all, 2 do
        local name = all[i]
        local at, other, wanted = string.match(all[i + 1], '^(%d+) (%d+) (%d+)$')
        if name == own then
            -- Written below.
        elseif not at or age(at) >= lease then
            redis.call('HDEL', KEYS[k], name)
        else
            reporting[name] = true
            other = tonumber(other)
            if live[name] then
                others = others + other
                wants[#wants + 1] = math.min(tonumber(wanted), TOTAL)
            else
                reserved = reserved + math.max(other, fair)
            end
        end
    end
    for name, is_live in pairs(live) do
        if not reporting[name] then
            reserved = reserved + (is_live and floor or fair)
        end
    end
    local pool = math.max(TOTAL - reserved, 0)
    local share = math.max(math.min(asked, pool - others), floor)
    redis.call('HSET', KEYS[k], own, string.format('%d %d %d', now, math.max(held, share), want))
    redis.call('PEXPIRE', KEYS[k], lease)
    answer[k] = {share, pool, unpack(wants)}
end
return answer
