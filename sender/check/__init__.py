"""What can be wrong with an installation: each thing that is looked at gives a finding, with its cure.

``findings`` has the values, ``running`` looks at everything side by side; each other module looks at one thing. Nothing
here changes anything: no file is made, no mail is sent, no schema is migrated.
"""
