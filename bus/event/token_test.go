package event_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

func TestTokensOfIds(t *testing.T) {
	for _, c := range []struct{ name, id, token string }{
		{"plain", "Agent_7-b", "Agent_7-b"},
		{"plain, as long as it may be", strings.Repeat("a", 128), strings.Repeat("a", 128)},
		{"plain characters, but too many", strings.Repeat("a", 129), "=" + strings.Repeat("a", 129)},
		{"plain characters, as many as fit", strings.Repeat("a", 254), "=" + strings.Repeat("a", 254)},
		{"a colon", "agent:7", "=agent=3A7"},
		{"a space", "my agent", "=my=20agent"},
		{"a slash", "a/b", "=a=2Fb"},
		{"a dot", "a.b", "=a=2Eb"},
		{"wildcards", "*>", "==2A=3E"},
		{"not ASCII", "grün☕", "=gr=C3=BCn=E2=98=95"},
		{"the mark of an escape", "=", "==3D"},
		{"what looks escaped", "=agent=3A7", "==3Dagent=3D3A7"},
		{"control characters", "\x00\r\n", "==00=0D=0A"},
		{"escaped, as long as it may be", strings.Repeat(":", 84) + "ab", "=" + strings.Repeat("=3A", 84) + "ab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := event.Token(c.id)
			if err != nil || token != c.token {
				t.Fatalf("Token(%q) = %q, %v; want %q", c.id, token, err, c.token)
			}
			id, err := event.ParseToken(token)
			if err != nil || id != c.id {
				t.Errorf("ParseToken(%q) = %q, %v; want %q", token, id, err, c.id)
			}
		})
	}
}

func TestIdsWithoutAToken(t *testing.T) {
	for _, c := range []struct {
		name, id string
		code     event.Code
		says     string
	}{
		{"empty", "", event.CodeInvalid, "must not be empty"},
		{"not UTF-8", "a\xff", event.CodeInvalid, "is not UTF-8"},
		{"half a character", "gr\xc3", event.CodeInvalid, "is not UTF-8"},
		{"one byte too long", strings.Repeat("a", 255), event.CodeTooLarge, "256 bytes, at most 255 are allowed"},
		{"one byte too long when escaped", strings.Repeat(":", 85), event.CodeTooLarge, "256 bytes, at most 255 are allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := event.Token(c.id)
			if !errors.Is(err, &event.Error{Code: c.code}) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Token = %q, %v; want code %s and %q", token, err, c.code, c.says)
			}
		})
	}
}

func TestOnlyCanonicalTokensAreParsed(t *testing.T) {
	for _, c := range []struct{ name, token, says string }{
		{"empty", "", "1 to 255 bytes"},
		{"too long", "=" + strings.Repeat("a", 255), "1 to 255 bytes"},
		{"plain and too long", strings.Repeat("a", 129), "must be escaped"},
		{"a character that must be escaped", "a:b", "must be escaped"},
		{"the same, after the mark", "=a:b", `canonical form "=a=3Ab"`},
		{"an escape where none is needed", "==61", `canonical form "a"`},
		{"the mark where none is needed", "=a", `canonical form "a"`},
		{"lower-case digits", "=a=3ab", "bad escape"},
		{"no digits", "==ZZ", "bad escape"},
		{"an escape cut off", "=a=3", "ends inside an escape"},
		{"an escape just begun", "=a=", "ends inside an escape"},
		{"only the mark", "=", "must not be empty"},
		{"an escape that is no UTF-8", "==FF", "is not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := event.ParseToken(c.token)
			if !errors.Is(err, &event.Error{Code: event.CodeInvalid}) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("ParseToken = %q, %v; want %q", id, err, c.says)
			}
		})
	}
}

func TestEachIdHasOneToken(t *testing.T) {
	ids := rapid.StringOfN(rapid.RuneFrom([]rune("ab1_-=:./ 3AF*>ü☕")), 1, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := ids.Draw(t, "a"), ids.Draw(t, "b")
		tokenA, tokenB := event.MustToken(a), event.MustToken(b)
		if (tokenA == tokenB) != (a == b) {
			t.Fatalf("ids %q and %q have tokens %q and %q", a, b, tokenA, tokenB)
		}
		if back, err := event.ParseToken(tokenA); err != nil || back != a {
			t.Fatalf("ParseToken(Token(%q)) = %q, %v", a, back, err)
		}
		if strings.ContainsAny(tokenA, ".*> \t\r\n") || len(tokenA) > event.MaxToken {
			t.Fatalf("token %q is not one token of a subject", tokenA)
		}
	})
}

func TestMustTokenPanicsOverAnIdWithoutOne(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	event.MustToken("")
}

func FuzzToken(f *testing.F) {
	for _, id := range []string{"", "a", goldenAgent, "grün", "a\xff", "=", strings.Repeat(":", 85)} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		token, err := event.Token(id)
		if err != nil {
			return
		}
		if back, err := event.ParseToken(token); err != nil || back != id {
			t.Errorf("ParseToken(Token(%q)) = %q, %v", id, back, err)
		}
		if len(token) > event.MaxToken || strings.ContainsAny(token, ".*> \t\r\n\x00") {
			t.Errorf("token %q is not one token of a subject", token)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	for _, token := range []string{"", "a", "=agent=3A7", "==FF", "=a=3", "==61", strings.Repeat("a", 129)} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		id, err := event.ParseToken(token)
		if err != nil {
			return
		}
		if again, err := event.Token(id); err != nil || again != token {
			t.Errorf("Token(ParseToken(%q)) = %q, %v", token, again, err)
		}
	})
}
