-- The image runs this file once, when it has made the data folder and the user of MYSQL_USER.
-- The user needs all rights, because `seckill migrate` makes databases, and tests make their own.
GRANT ALL ON *.* TO 'seckill'@'%' WITH GRANT OPTION;
