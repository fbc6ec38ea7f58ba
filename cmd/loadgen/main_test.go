package main

import (
	"os"
	"testing"

	"github.com/opspawn/opscore/cmd/loadgen/env"
)

// TestMain lets this binary be the servers that tests start.
func TestMain(m *testing.M) {
	if env.Child() {
		return
	}
	os.Exit(m.Run())
}
