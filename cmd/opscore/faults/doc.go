// Package faults holds the tests that try to break Ops-Core: real processes of it, NATS and Redis are killed, stopped and set back
// in the middle of runs, and the agents' own ledger says afterwards whether anything was lost or done twice.
package faults
