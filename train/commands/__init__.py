"""One module for each command, and what commands share.

train_command          `flaxmill train`
data_command           `flaxmill data`
tokenizer_command      `flaxmill tokenizer`
tokenizer_training     `flaxmill tokenizer train`
eval_command           `flaxmill eval`
lm_eval_command        `flaxmill lm-eval`
embed_command          `flaxmill embed`
score_command          `flaxmill score`
generate_command       `flaxmill generate`
chat_command           `flaxmill chat`
import_command         `flaxmill import`
export_command         `flaxmill export`
parity_command         `flaxmill parity`
runs_command           `flaxmill runs`
report_command         `flaxmill report`
checkpoints_command    `flaxmill checkpoints`
verify_resume_command  `flaxmill verify-resume`
plan_command           `flaxmill plan`
configs_command        `flaxmill configs`
doctor_command         `flaxmill doctor`
"""
