-- Answers which commands the user may not run. The script changes nothing.
--
-- KEYS  1 a key with the prefix of the shop
-- ARGV  1 the channel of the shop, 2 how many commands of channels follow, 3… these, and then commands of keys
-- Result: those that the user may not run; false before Redis 7, which cannot be asked

if not redis.acl_check_cmd then return false end
local refused = {}
for place = 3, #ARGV do
  local subject = KEYS[1]
  if place - 2 <= tonumber(ARGV[2]) then subject = ARGV[1] end
  if not redis.acl_check_cmd(ARGV[place], subject) then table.insert(refused, ARGV[place]) end
end
return refused
