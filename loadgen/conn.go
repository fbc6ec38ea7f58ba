package loadgen

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// maxAnswer bounds the body of an answer, in bytes.
const maxAnswer = 8 << 20

// dialTimeout bounds how long it takes to connect.
const dialTimeout = 10 * time.Second

// httpConn is the one keep-alive connection of one user, as a Locust user has one.
//
// It is not net/http's because that repeats a request when the server has closed the connection meanwhile, which hides exactly the
// failures that a load test is there to find, and because it takes two goroutines and two buffers for each of thousands of users:
// this one takes none while the user pauses.
type httpConn struct {
	base *url.URL
	conn net.Conn // nil: none is open
}

// readers are for the time of one answer: what is on its way while a user pauses fits into the kernel.
var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// httpAnswer is what came back.
type httpAnswer struct {
	status int
	header http.Header
	body   []byte
}

// roundTrip sends a request and reads the whole answer, within the time of ctx. It opens a connection if none is open or the server has
// closed it visibly; a request that was written is never repeated.
func (c *httpConn) roundTrip(ctx context.Context, method string, request []byte) (httpAnswer, error) {
	if c.conn != nil && !idle(c.conn) {
		c.close()
	}
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return httpAnswer{}, err
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.conn.SetDeadline(deadline) // fails only on a closed connection, and then so does the write
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	answer, reusable, err := exchange(conn, method, request)
	if !stop() || err != nil || !reusable {
		c.close()
		return answer, err
	}
	_ = conn.SetDeadline(time.Time{}) // a pause may be longer than a request
	return answer, nil
}

func exchange(conn net.Conn, method string, request []byte) (answer httpAnswer, reusable bool, err error) {
	if _, err := conn.Write(request); err != nil {
		return httpAnswer{}, false, err
	}
	r := readers.Get().(*bufio.Reader)
	r.Reset(conn)
	defer func() {
		r.Reset(nil)
		readers.Put(r)
	}()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return httpAnswer{}, false, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = failuref(ClassContent, "the answer is longer than %d bytes", maxAnswer)
	}
	_ = resp.Body.Close() // reads nothing more: the body is at its end, or the connection is given up
	if err != nil {
		return httpAnswer{}, false, err
	}
	return httpAnswer{status: resp.StatusCode, header: resp.Header, body: body}, !resp.Close && r.Buffered() == 0, nil
}

func (c *httpConn) dial(ctx context.Context) error {
	port := c.base.Port()
	if port == "" {
		port = c.base.Scheme // "http" and "https" are names of services
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(c.base.Hostname(), port))
	if err != nil {
		return err
	}
	if c.base.Scheme == "https" {
		secured := tls.Client(conn, &tls.Config{ServerName: c.base.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return fmt.Errorf("TLS: %w", err)
		}
		conn = secured
	}
	c.conn = conn
	return nil
}

func (c *httpConn) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// appendRequest appends a request to b.
func (c *httpConn) appendRequest(b []byte, method, path string, header [][2]string, body []byte) []byte {
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, c.base.EscapedPath()...)
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.base.Host...)
	b = append(b, "\r\nUser-Agent: opscore-loadgen\r\nAccept: */*\r\n"...)
	for _, h := range header {
		b = append(b, h[0]...)
		b = append(b, ": "...)
		b = append(b, h[1]...)
		b = append(b, "\r\n"...)
	}
	if method != http.MethodGet {
		b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, body...)
}
