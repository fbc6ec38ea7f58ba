package bridge

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// envelope is the body of a signed request, as Standard Webhooks suggests it.
type envelope struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      any       `json:"data"`
}

// deliveryID is the webhook-id of what is said about an attempt: the same however often it is said, and without a dot, which separates
// the parts of what is signed.
func deliveryID(kind string, ref event.AttemptRef) string {
	sum := sha256.Sum256([]byte(ref.LegacyID()))
	return kind + "_" + hex.EncodeToString(sum[:16])
}

const secretPrefix = "whsec_"

// parseSecrets decodes secrets as Standard Webhooks writes them.
func parseSecrets(texts []string) ([][]byte, error) {
	secrets := make([][]byte, 0, len(texts))
	for _, text := range texts {
		encoded, ok := strings.CutPrefix(text, secretPrefix)
		if !ok {
			return nil, errors.New("a secret does not begin with " + secretPrefix)
		}
		secret, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(secret) == 0 {
			return nil, fmt.Errorf("a secret is not %s followed by base64", secretPrefix) // the error would show a part of it
		}
		secrets = append(secrets, secret)
	}
	return secrets, nil
}

// sign adds the headers of Standard Webhooks, with one signature per secret; without secrets a repeat is still known by its id.
func sign(h http.Header, id string, at time.Time, body []byte, secrets [][]byte) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + stamp + "."))
		mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	if len(signatures) > 0 {
		h.Set("Webhook-Signature", strings.Join(signatures, " "))
	}
}

// The ways to reach an agent of delivery agentkit.
const (
	AgentKitDirect  = "direct"   // a POST to its contactEndpoint
	AgentKitThrough = "agentkit" // a POST to AgentKit, which passes it on
)

// through reports whether an agent is reached through AgentKit: what its metadata say, or else the mode that is set for all.
func through(agent *event.Agent, mode string) bool {
	var metadata struct {
		Delivery string `json:"opscore_delivery"`
	}
	_ = event.Unmarshal(agent.Metadata, &metadata) // metadata may hold anything
	if metadata.Delivery == AgentKitDirect || metadata.Delivery == AgentKitThrough {
		mode = metadata.Delivery
	}
	return mode == AgentKitThrough
}

// agentKitURL is where AgentKit takes a task for an agent. The base may end in /v1 or not.
func agentKitURL(base, agent string) string {
	base = strings.TrimSuffix(strings.TrimRight(base, "/"), "/v1")
	return base + "/v1/agents/" + url.PathEscape(agent) + "/run"
}

// agentKitMessage is what AgentKit passes on to agents. AgentKit drops the ids of the session context and old agents know no others, so
// they stand in both places.
type agentKitMessage struct {
	SenderID    string          `json:"senderId"`
	Timestamp   string          `json:"timestamp"`
	MessageType string          `json:"messageType"`
	Payload     event.Raw       `json:"payload"`
	Context     agentKitSession `json:"sessionContext"`
	TaskName    string          `json:"task_name"`
	SessionID   string          `json:"opscore_session_id"`
	TaskID      string          `json:"opscore_task_id"`
}

type agentKitSession struct {
	SessionID     string   `json:"sessionId"`
	WorkflowID    string   `json:"workflowId,omitzero"`
	TaskID        string   `json:"taskId,omitzero"`
	PriorMessages []string `json:"priorMessages"`
}

// agentKitBody makes the message that hands over a task. An agent gets exactly the members that AgentKit would send; for AgentKit itself
// the session context holds all that the original put there.
func agentKitBody(task *event.Task, now time.Time, through bool) []byte {
	ref := task.Ref()
	name := task.Name
	if name == "" {
		name = task.TaskID
	}
	session := agentKitSession{SessionID: task.RunID, PriorMessages: []string{}}
	if through {
		session.WorkflowID, session.TaskID = task.WorkflowID, ref.LegacyID()
	}
	return event.MustMarshal(&agentKitMessage{
		SenderID: "opscore_system_id", Timestamp: now.UTC().Format("2006-01-02T15:04:05.000000Z"), MessageType: "workflow_task",
		Payload: agentKitPayload(task.Input, name), Context: session,
		TaskName: name, SessionID: task.RunID, TaskID: ref.LegacyID(),
	})
}

// agentKitPayload is the input of a task as it is, and behind its own members the two that agents written for AgentKit look for there.
func agentKitPayload(input event.Raw, name string) event.Raw {
	var members map[string]event.Raw
	if event.Unmarshal(input, &members) != nil || members == nil {
		input, members = event.Raw(`{}`), map[string]event.Raw{}
	}
	payload := bytes.TrimSuffix(bytes.TrimSpace(input), []byte("}"))
	payload = bytes.Clone(payload)
	add := func(member string, value []byte) {
		if _, there := members[member]; there {
			return
		}
		if len(members) > 0 {
			payload = append(payload, ',')
		}
		payload = append(append(append(payload, '"'), member+`":`...), value...)
		members[member] = value
	}
	parameters := input // as it was, before the two
	add("task_name", event.MustMarshal(name))
	add("task_parameters", parameters)
	return append(payload, '}')
}
