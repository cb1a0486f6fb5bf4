"""Meta-World's 50 tasks as sentences: the instruction first, then paraphrases where there are some.

The first sentence is the one recorded and evaluated. Of the paraphrases the demo trains on none. They are for
trying a policy on words it has not read.
"""

from __future__ import annotations

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "assembly": ("pick up the nut and place it onto the peg",),
    "basketball": ("dunk the basketball into the basket",),
    "bin-picking": ("pick the puck from one bin and place it into the other bin",),
    "box-close": ("grasp the cover and close the box with it",),
    "button-press-topdown": (
        "press the button from the top",
        "push the button down from above",
        "press down on the button",
    ),
    "button-press-topdown-wall": ("bypass the wall and press the button from the top",),
    "button-press": ("press the button", "push in the button on the box", "push the red button"),
    "button-press-wall": ("bypass the wall and press the button",),
    "coffee-button": (
        "push the button on the coffee machine",
        "start the coffee machine",
        "press the coffee maker's button",
    ),
    "coffee-pull": ("pull the mug away from the coffee machine",),
    "coffee-push": ("push the mug under the coffee machine",),
    "dial-turn": ("turn the dial", "rotate the dial on the table", "spin the dial around"),
    "disassemble": ("pick the nut off the peg",),
    "door-close": ("close the door",),
    "door-lock": (
        "lock the door by turning the lock clockwise",
        "turn the lock so that the door is locked",
        "lock the door",
    ),
    "door-open": ("open the door with the revolving joint", "pull the door open", "swing the door open"),
    "door-unlock": (
        "unlock the door by turning the lock counter-clockwise",
        "turn the lock so that the door is unlocked",
        "unlock the door",
    ),
    "drawer-close": ("push and close the drawer", "shut the drawer", "push the drawer in"),
    "drawer-open": ("open the drawer", "pull the drawer open", "slide the drawer out"),
    "faucet-close": ("rotate the faucet clockwise to close it", "close the faucet", "turn the water tap off"),
    "faucet-open": ("rotate the faucet counter-clockwise to open it", "open the faucet", "turn the water tap on"),
    "hammer": ("hammer the nail into the wall",),
    "hand-insert": ("insert the gripper into the hole",),
    "handle-press-side": (
        "press the handle down sideways",
        "push the handle on the side down",
        "press down the sideways handle",
    ),
    "handle-press": ("press the handle down", "push down on the handle", "lower the handle"),
    "handle-pull-side": ("pull the handle up sideways", "lift the sideways handle", "raise the handle on the side"),
    "handle-pull": ("pull the handle up", "lift the handle", "raise the handle"),
    "lever-pull": ("pull the lever up", "lift the lever", "raise the lever by ninety degrees"),
    "peg-insert-side": ("insert the peg into the hole from the side",),
    "peg-unplug-side": ("unplug the peg from the side", "pull the peg out of the hole", "remove the peg sideways"),
    "pick-out-of-hole": ("pick the puck out of the hole",),
    "pick-place": ("pick up the puck and place it at the goal",),
    "pick-place-wall": ("pick up the puck, bypass the wall and place it at the goal",),
    "plate-slide-back-side": ("get the plate out of the cabinet sideways",),
    "plate-slide-back": ("get the plate out of the cabinet",),
    "plate-slide-side": ("slide the plate into the cabinet sideways",),
    "plate-slide": ("slide the plate into the cabinet",),
    "push-back": ("pull the puck back to the goal",),
    "push": ("push the puck to the goal",),
    "push-wall": ("bypass the wall and push the puck to the goal",),
    "reach": ("reach the goal position", "move the hand to the goal", "go to the marked point"),
    "reach-wall": ("bypass the wall and reach the goal position",),
    "shelf-place": ("pick up the block and place it onto the shelf",),
    "soccer": ("kick the soccer ball into the goal",),
    "stick-pull": ("grasp the stick and pull the box with it",),
    "stick-push": ("grasp the stick and push the box with it",),
    "sweep-into": ("sweep the puck into the hole",),
    "sweep": ("sweep the puck off the table",),
    "window-close": ("push and close the window", "slide the window shut", "shut the window"),
    "window-open": ("push and open the window", "slide the window open", "open up the window"),
}

SHARED_SCENES: dict[str, str] = {"faucet-open": "faucet-close", "faucet-close": "faucet-open"}
"""Tasks whose episodes start from the same scene: the instruction tells them apart. The object's place is drawn from
ranges that overlap without being equal (faucet-close reaches 10 cm to each side, faucet-open 5)."""
