"""The paper's study, repeated with this software: bases x tasks x training-set sizes x strategies x seeds."""
