"""One module for each command, and what commands share.

train_command          `flaxmill train`
auto_mesh              a mesh for the devices at hand
seeds                  the same experiment under several seeds
data_command           `flaxmill data`
tokenizer_command      `flaxmill tokenizer`
tokenizer_training     `flaxmill tokenizer train`
shown_lines            lines in colour, where a terminal shows them
eval_command           `flaxmill eval`
generate_command       `flaxmill generate`
import_command         `flaxmill import`
export_command         `flaxmill export`
parity_command         `flaxmill parity`
checkpoints_command    `flaxmill checkpoints`
verify_resume_command  `flaxmill verify-resume`
plan_command           `flaxmill plan`
compiled_plans         plans whose steps are compiled
configs_command        `flaxmill configs`
output_places          places that a user names for what a command writes
terminal               streams whose troubles do not end a command
"""
