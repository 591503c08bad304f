"""ontime: how likely is this flight to arrive 15 or more minutes late, asked two hours before?"""
