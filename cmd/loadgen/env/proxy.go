package env

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// Proxy stands between the replicas and one of their servers and does to their connections what a network does. It knows nothing of the
// protocol: a reply is whatever the server sends.
//
// A new Proxy only passes bytes on. Its methods are safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	links  map[*link]bool
	lose   int           // replies to lose, each with its connection
	frozen chan struct{} // closed when bytes flow again; nil while they do
	lost   int
	closed bool
}

// NewProxy starts a proxy to a server's host:port.
func NewProxy(target string) (*Proxy, error) {
	addr, err := freeAddr() // not any port: one that nobody takes while connections come and go
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("start a proxy: %w", err)
	}
	p := &Proxy{target: target, listener: listener, links: make(map[*link]bool)}
	p.running.Go(p.accept)
	return p, nil
}

// Addr is the host:port that clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut closes all connections. What is on its way in either direction may be lost. It returns how many there were.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
	return len(p.links)
}

// LoseReplies lets the server execute what it is sent next, swallows its reply and closes that connection, n times.
func (p *Proxy) LoseReplies(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = n
}

// Lost is how many replies were swallowed so far.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// HalfOpen keeps all connections open and passes nothing on, in either direction, until [Proxy.Flow].
func (p *Proxy) HalfOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		p.frozen = make(chan struct{})
	}
}

// Flow ends HalfOpen the way a network does: the connections that stood are closed, new ones work.
func (p *Proxy) Flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		return
	}
	for l := range p.links {
		l.close()
	}
	close(p.frozen)
	p.frozen = nil
}

// Close closes everything and returns when all goroutines of the proxy have ended.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.Flow()
	p.Cut()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// serve connects a client with the server until either is gone.
func (p *Proxy) serve(client net.Conn) {
	server, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client.(*net.TCPConn), server: server.(*net.TCPConn), gone: make(chan struct{})}
	defer l.close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.links[l] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
	}()
	p.running.Go(func() { p.requests(l) })
	p.replies(l)
}

// requests passes on what the client sends, then tells the server that nothing more will come.
func (p *Proxy) requests(l *link) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := l.client.Read(buffer)
		if n > 0 {
			if !p.pass(l) {
				return
			}
			if _, err := l.server.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = l.server.CloseWrite()
}

// replies passes on what the server sends.
func (p *Proxy) replies(l *link) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buffer)
		if err != nil || !p.pass(l) {
			return
		}
		if p.loses() {
			l.finish()
			return
		}
		if _, err := l.client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// pass waits while nothing flows, and reports false if the connection has ended meanwhile.
func (p *Proxy) pass(l *link) bool {
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	if frozen == nil {
		return true
	}
	select {
	case <-frozen:
		return true
	case <-l.gone:
		return false
	}
}

// loses reports whether the reply at hand is to be lost, and counts it.
func (p *Proxy) loses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose == 0 {
		return false
	}
	p.lose--
	p.lost++
	return true
}

// link is one client's connection and the one to the server that belongs to it.
type link struct {
	client, server *net.TCPConn
	once           sync.Once
	gone           chan struct{} // closed by close
}

// close closes both connections.
func (l *link) close() {
	l.once.Do(func() {
		close(l.gone)
		_ = l.client.Close()
		_ = l.server.Close()
	})
}

// finish stops taking from the client and reads the server's replies for a moment, so that the server has executed what it was sent
// before the client notices anything and tries again.
func (l *link) finish() {
	const patience = 500 * time.Millisecond // servers do not hang up when their client does
	_ = l.client.SetReadDeadline(time.Now())
	_ = l.server.SetReadDeadline(time.Now().Add(patience))
	rest := make([]byte, 32<<10)
	for {
		if _, err := l.server.Read(rest); err != nil {
			return
		}
	}
}
