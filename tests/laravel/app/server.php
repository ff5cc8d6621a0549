<?php

// As in `laravel new`: what `artisan serve` gives to PHP's own server.

$_SERVER['DISPATCHES'] = getenv('DISPATCHES');
$uri = urldecode(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
if ($uri !== '/' && file_exists(__DIR__.'/public'.$uri)) {
    return false;
}
require_once __DIR__.'/public/index.php';
