"""The Compare tab: several systems on the same turn or data, shown side by side, judged blind, and scored."""
