package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// The environment variables that say how agents are reached by HTTP.
const (
	envPushSecret   = "OPSCORE_PUSH_SECRET" // whsec_…; several, separated by spaces, while they are rotated
	envAgentKitURL  = "AGENTKIT_API_URL"
	envAgentKitKey  = "AGENTKIT_API_KEY"
	envAgentKitMode = "OPSCORE_AGENTKIT_MODE" // direct or agentkit
	envAdoptAgents  = "OPSCORE_ADOPT_AGENTS"  // true or false
)

// deliveryFlags are the flags about agents that are reached by HTTP. What they leave open, the environment says.
type deliveryFlags struct {
	agentKitURL, agentKitMode string
	adopt                     bool
}

func (f *deliveryFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.agentKitURL, "agentkit-url", "", "`URL` of AgentKit, for agents that it knows (default: AGENTKIT_API_URL)")
	flags.StringVar(&f.agentKitMode, "agentkit-mode", "", "how they get tasks unless they say: direct, or through agentkit (default: OPSCORE_AGENTKIT_MODE, or direct)")
	flags.BoolVar(&f.adopt, "adopt-agents", false, "register an unknown agent that reports its state on the old route with the key (or: OPSCORE_ADOPT_AGENTS=true)")
}

// delivery puts flags and environment together.
func (a *app) delivery(f deliveryFlags) (server.Delivery, error) {
	d := server.Delivery{
		Secrets:     strings.Fields(a.getenv(envPushSecret)),
		AgentKitURL: a.orEnv(f.agentKitURL, envAgentKitURL, ""), AgentKitKey: a.getenv(envAgentKitKey),
		AgentKitMode: a.orEnv(f.agentKitMode, envAgentKitMode, bridge.AgentKitDirect), AdoptAgents: f.adopt,
	}
	switch d.AgentKitMode {
	case bridge.AgentKitDirect, bridge.AgentKitThrough:
	default:
		return d, usagef("--agentkit-mode: %q is not one of %s, %s", d.AgentKitMode, bridge.AgentKitDirect, bridge.AgentKitThrough)
	}
	if text := a.getenv(envAdoptAgents); text != "" && !d.AdoptAgents {
		var err error
		if d.AdoptAgents, err = strconv.ParseBool(text); err != nil {
			return d, usagef("%s: %q is not one of true, false", envAdoptAgents, text)
		}
	}
	return d, nil
}
