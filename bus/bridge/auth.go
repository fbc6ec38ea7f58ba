package bridge

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// replayWindow is how far the timestamp of a signed webhook may be from now.
const replayWindow = 5 * time.Minute

// NamedKey is a bearer key that says who shows it. Several may have the same name.
type NamedKey struct{ Name, Key string }

// open reports whether the new API needs no key.
func (c *Config) open() bool { return c.Key == "" && len(c.Keys) == 0 }

// shownBy reports whether a request shows one of the keys, and the name of that, empty if it has none. All are compared, so that the time does not tell which
// one it was.
func (c *Config) shownBy(r *http.Request) (name string, ok bool) {
	ok = hasKey(r, c.Key)
	for _, k := range c.Keys {
		if hasKey(r, k.Key) {
			name, ok = k.Name, true
		}
	}
	return name, ok
}

// hasKey reports whether a request shows a bearer key: the scheme in any case, one space, and the key byte for byte.
func hasKey(r *http.Request, key string) bool {
	scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return key != "" && strings.EqualFold(scheme, "bearer") && equalKeys(shown, key)
}

// equalKeys compares in a time that tells nothing of either.
func equalKeys(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// admitAPI refuses requests to the new API that do not show the key, if there is one.
func (b *Bridge) admitAPI(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, ok := b.cfg.shownBy(r); ok || b.cfg.open() {
			x := exchangeOf(r.Context())
			x.key = name
			x.reach(authenticated, time.Now())
			next.ServeHTTP(w, r)
			return
		}
		challenge := `Bearer realm="opscore"`
		if r.Header.Get("Authorization") != "" {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		fail(w, r, errUnauthorized)
	})
}

// refuseOtherSites refuses writes that a browser sends on behalf of another site. Without a key, only that keeps a page from steering
// a server on its reader's own machine.
func refuseOtherSites(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail(w, r, event.Errorf(event.CodeForbidden, "a browser sent this for another site"))
	}))
	return protection.Handler(next)
}

// admitOld is the check of the three old bearer routes.
func (b *Bridge) admitOld(r *http.Request, _ []byte) error {
	name, ok := b.cfg.shownBy(r)
	if b.cfg.open() {
		ok = hasKey(r, b.cfg.OldKey)
	}
	exchangeOf(r.Context()).key = name
	switch {
	case len(r.Header.Values("Authorization")) == 0:
		return &oldError{http.StatusUnauthorized, "Authorization header missing"}
	case !ok:
		return &oldError{http.StatusUnauthorized, "Invalid authentication credentials"}
	}
	return nil
}

// admitWebhook checks the signature of AgentKit: HMAC-SHA256 over the timestamp, a dot and the body, by one of the secrets, and not
// older than the replay window.
func (b *Bridge) admitWebhook(r *http.Request, body []byte) error {
	if len(b.cfg.WebhookSecrets) == 0 {
		return nil
	}
	refused := &oldError{http.StatusUnauthorized, "Invalid webhook signature"}
	stamp := r.Header.Get("X-AgentKit-Timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > replayWindow {
		return refused
	}
	shown, err := hex.DecodeString(r.Header.Get("X-AgentKit-Signature"))
	if err != nil {
		return refused
	}
	valid := false
	for _, secret := range b.cfg.WebhookSecrets {
		// All are tried, so that the time does not tell which one it was.
		valid = hmac.Equal(shown, webhookSignature(secret, stamp, body)) || valid
	}
	if !valid {
		return refused
	}
	return nil
}

func webhookSignature(secret, stamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}
