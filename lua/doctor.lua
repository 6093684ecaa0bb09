-- Answers which commands the user may not run on a key. The script changes nothing.
--
-- KEYS  1 a key with the prefix of the shop
-- ARGV  names of commands
-- Result: those that the user may not run; none before Redis 7, which cannot be asked

local refused = {}
if redis.acl_check_cmd then
  for _, command in ipairs(ARGV) do
    if not redis.acl_check_cmd(command, KEYS[1]) then table.insert(refused, command) end
  end
end
return refused
