-- Most definitions have 2 to 6 KB. By default such a value is cut into pieces of 2 KB in a table of its own, each with an entry in
-- an index, which was a quarter of the cost of a desire. Up to what fits on a page it now stays in its row. Rows that are there
-- already stay as they are until they are written again.
alter table lrp_definitions set (toast_tuple_target = 8160);
alter table task_definitions set (toast_tuple_target = 8160);

---- additive ----
