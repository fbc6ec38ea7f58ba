package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/opspawn/opscore/bus/event"
)

// maxURL is how many characters the old server took for a URL.
const maxURL = 2083

// httpURL returns a member that must be an http or https URL, in its normal form.
func (o *object) httpURL(name string) string {
	v, ok := o.present(name)
	if !ok {
		return ""
	}
	var s string
	if v.Kind() != '"' || event.Unmarshal(v, &s) != nil {
		o.c.add("url_type", o.at(name), "URL input should be a string or URL", v, nil)
		return ""
	}
	if len([]rune(s)) > maxURL {
		o.c.add("url_too_long", o.at(name), "URL should have at most 2083 characters", v, event.Raw(`{"max_length":2083}`))
		return ""
	}
	normal, err := normaliseURL(s)
	switch {
	case errors.Is(err, errScheme):
		o.c.add("url_scheme", o.at(name), "URL scheme should be 'http' or 'https'", v, event.Raw(`{"expected_schemes":"'http' or 'https'"}`))
	case err != nil:
		ctx := event.MustMarshal(map[string]string{"error": err.Error()})
		o.c.add("url_parsing", o.at(name), "Input should be a valid URL, "+err.Error(), v, ctx)
	}
	return normal
}

// What is wrong with a URL, in the words of the old server.
var (
	errScheme    = errors.New("scheme is not http or https")
	errEmptyURL  = errors.New("input is empty")
	errRelative  = errors.New("relative URL without a base")
	errEmptyHost = errors.New("empty host")
	errPort      = errors.New("invalid port number")
	errHost      = errors.New("invalid international domain name")
	errIPv6      = errors.New("invalid IPv6 address")
)

// normaliseURL writes a URL in the form that the WHATWG standard, and so the old server, gives it: trimmed, scheme and host in lower
// case and ASCII, without the default port, the path resolved and never empty, what is not allowed in its parts escaped. Not
// followed is the standard's reading of numbers as IPv4 addresses.
func normaliseURL(s string) (string, error) {
	if s == "" {
		return "", errEmptyURL
	}
	s = strings.TrimFunc(s, func(r rune) bool { return r <= ' ' })
	s = strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(s)
	scheme, rest, ok := cutScheme(s)
	if !ok {
		return "", errRelative
	}
	if scheme != "http" && scheme != "https" {
		return "", errScheme
	}
	rest, fragment := cutAt(rest, "#")
	rest, query := cutAt(rest, "?")
	// Of these schemes, slashes of either kind separate, and any number of them may stand before the host.
	rest = strings.TrimLeft(strings.ReplaceAll(rest, `\`, "/"), "/")
	authority, path := cutAt(rest, "/")
	user, host := "", authority
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, host = authority[:at], authority[at+1:]
	}
	if user != "" {
		user = escape(user, userEscapes) + "@"
	}
	host, err := normaliseHost(scheme, host)
	if err != nil {
		return "", err
	}
	return scheme + "://" + user + host + resolvePath(escape(path, pathEscapes)) + escape(query, queryEscapes) + escape(fragment, fragmentEscapes), nil
}

// cutScheme splits a URL behind its scheme, which is returned in lower case.
func cutScheme(s string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(s, ":")
	for i, r := range scheme {
		if r >= 0x80 || !isLetter(byte(r)) && (i == 0 || !strings.ContainsRune("0123456789+-.", r)) {
			return "", "", false
		}
	}
	return strings.ToLower(scheme), rest, ok && scheme != ""
}

// cutAt splits before the first occurrence of a separator, which stays with the second part.
func cutAt(s, sep string) (before, from string) {
	if i := strings.Index(s, sep); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// What is percent-encoded in the parts of a URL, beside control characters and what is not ASCII.
const (
	fragmentEscapes = " \"<>`"
	queryEscapes    = " \"<>'"
	pathEscapes     = " \"<>`{}"
	userEscapes     = pathEscapes + "/;=@[]^|"
)

func escape(s, what string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= 0x1F || c >= 0x7F || strings.IndexByte(what, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// resolvePath removes the segments . and .. and makes an empty path "/".
func resolvePath(path string) string {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	var out []string
	for i, s := range segments {
		last := i == len(segments)-1
		switch strings.ReplaceAll(strings.ToLower(s), "%2e", ".") {
		case "..":
			out = out[:max(len(out)-1, 0)]
		case ".":
		default:
			out = append(out, s)
			continue
		}
		if last {
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/")
}

// normaliseHost returns a host in ASCII, with its port unless that is the default.
func normaliseHost(scheme, s string) (string, error) {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
	}
	if host == "" {
		return "", errEmptyHost
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return "", errPort
		}
		port = ":" + strconv.FormatUint(n, 10)
	}
	if scheme == "http" && port == ":80" || scheme == "https" && port == ":443" {
		port = ""
	}
	if strings.HasPrefix(host, "[") {
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err != nil || !ip.Is6() {
			return "", errIPv6
		}
		return "[" + ip.String() + "]" + port, nil
	}
	host, err := url.PathUnescape(host)
	if err != nil || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || strings.ContainsRune("#%/:<>?@[\\]^|\x7f", r) }) {
		return "", errHost
	}
	labels := strings.Split(strings.ToLower(host), ".")
	for i, l := range labels {
		if !isASCII(l) {
			labels[i] = "xn--" + punycode(l)
		}
	}
	return strings.Join(labels, ".") + port, nil
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}
