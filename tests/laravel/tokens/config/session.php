<?php

return [
    'driver' => 'file',
    'files' => storage_path('sessions'),
    'lottery' => [0, 1],
    'lifetime' => 120,
    'expire_on_close' => false,
    'cookie' => 'session',
    'path' => '/',
    'domain' => null,
    'secure' => null,
];
