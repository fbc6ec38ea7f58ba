package bridge

import (
	"testing"

	"github.com/opspawn/opscore/bus/bustest"
)

func TestMain(m *testing.M) { bustest.Main(m) }
