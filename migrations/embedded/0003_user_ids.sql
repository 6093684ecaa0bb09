-- User ids have up to 255 visible characters. The tables take them as they are, but a program that knows only 64 of
-- fewer kinds would find rows that it cannot read, so this schema is not for it.
SELECT 1;
