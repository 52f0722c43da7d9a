#!/bin/sh
# lab-stage NAME: have the stage server run one stage of cloud-init, and exit as it did.
echo "$1" >/run/cloud-init-stages/ask
read -r code </run/cloud-init-stages/answer
exit "$code"
