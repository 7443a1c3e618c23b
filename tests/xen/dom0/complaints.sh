# shellcheck shell=bash
# What a kernel's log has when the kernel itself is not well. Sourced by collect.sh and lib.sh.
# shellcheck disable=SC2034 # for those who source this
complaint_pattern='WARNING: |BUG: |kernel BUG|Bad page|Oops'
